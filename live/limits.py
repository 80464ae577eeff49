"""What one connection may do, in numbers: docs/socket.md tells them to client authors."""

MESSAGE_BYTES = 64 * 1024
MESSAGES_PER_SECOND = 600  # and twice as many at once
FREE_CHARS = 4096  # of one message; as many more count as another one
CONNECTIONS_PER_USER = 20
UNAUTHENTICATED = 500  # connections of this process
SUBSCRIPTIONS = 64
STREAMS = 16
REQUESTS = 32  # requests of one connection under way
INPUTS = 256  # input events of one connection that wait
UNACKNOWLEDGED = 2  # frames of one stream

QUEUED_BYTES = 2**20
QUEUED_EVENTS = 4096
QUEUED_DELTAS = 256  # of one connection; older ones are dropped
READ_EVENTS = 500  # events of one read of the log that all viewers share
PAGE_EVENTS = 200  # events of one read for one subscription that catches up
BATCH_BYTES = 64 * 1024  # of one `events` message, after its first event

TICK_SECONDS = 1.0
AUTH_SECONDS = 10.0
WARNING_SECONDS = 15.0  # from `auth_expiring` to the token's end
GRACE_SECONDS = 25.0  # from the token's end to 4401
POSITION_SECONDS = 25.0
HEARTBEAT_SECONDS = 15.0
SLOW_SECONDS = 1.0  # a client that cannot keep up is one whose messages wait this long
WRITE_SECONDS = 10.0  # without any progress
LEAVE_SECONDS = 1.0  # to say 4009 before a signal stops the server
