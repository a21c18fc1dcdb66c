"""The driver's errors that other packages distinguish."""

from asyncpg import InsufficientPrivilegeError as InsufficientPrivilegeError
from asyncpg import InternalServerError as InternalServerError
from asyncpg import LockNotAvailableError as LockNotAvailableError
from asyncpg import OperatorInterventionError as OperatorInterventionError
from asyncpg import PostgresError as PostgresError
from asyncpg import QueryCanceledError as QueryCanceledError
from asyncpg import UndefinedTableError as UndefinedTableError
