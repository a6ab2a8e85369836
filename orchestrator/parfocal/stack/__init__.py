"""The one-machine stack: an S3 store, Prefect, a flow runner and method services under one supervisor.

No Docker, no root, loopback only. The public functions:

```
parfocal.stack.control    up, status, down
parfocal.stack.connection connection, StackConnection
parfocal.stack.logs       logs
parfocal.stack.doctor     doctor: what could go wrong on this machine
parfocal.stack.config     StackConfig, ServiceUnit: what to start and where
parfocal.stack.discover   select_services, discover_services: what is installed
parfocal.stack.state      StackStatus, UnitStatus, UnitState, StackEvent
```

Behind them: `units` is the list of processes and how each is started, `probes` says when each is ready,
`supervisor` starts, watches, restarts and stops them, `guard` cleans up if the supervisor is killed.

A stack's folder holds ``config.json`` (services and ports), ``stack.json`` (states, no secrets),
``credentials.json`` and ``s3.json`` (keys, mode 0600), ``logs/``, ``s3/`` (the data), ``prefect/`` (its database)
and ``state/`` (caches and device locks of the services).
"""
