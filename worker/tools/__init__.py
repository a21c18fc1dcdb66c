"""Operator tools without their commands: audit, status, permissions, explain, rebuild, reconcile, doctor."""
