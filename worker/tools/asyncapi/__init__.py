"""The AsyncAPI 3.1 documents, made from the code: the change feed, and everything on the broker.

changes.py    what subscribers receive, over AMQP and HTTP
topology.py   exchanges, queues and messages between the parts of Stockhook
"""
