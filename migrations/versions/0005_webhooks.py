"""How logs become deliveries, and how workers take and settle them."""

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for function in (TELL, DELIVERY_ID, FAN_OUT, CLAIM, SETTLE, FAIL, WAKE):
        op.execute(function)


# Looks in a snapshot of its own, taken under the stream's lock: a webhook made while we waited for it is seen.
TELL = """
create function tell_webhooks(owner text, head bigint) returns void language plpgsql as $$
begin
  insert into outbox (user_id, seq) select owner, head
   where exists (select from webhooks w where w.user_id = owner and w.enabled);
end $$
"""

# A UUIDv7 with the event's instant whose random part names the pair: a second delivery of it breaks the key.
DELIVERY_ID = """
create function delivery_id(event uuid, webhook uuid) returns uuid language sql immutable as $$
  select encode(substring(uuid_send(event) for 8)
    || set_byte(pair.digest, 0, get_byte(pair.digest, 0) & 63 | 128), 'hex')::uuid
    from (select substring(decode(md5(event::text || webhook::text), 'hex') for 8) as digest) pair
$$
"""

# One user's log beyond the cursors of the user's webhooks, at most so many events. The rows of the outbox are
# locked before the log is read, so what they stand for is seen. Nothing here waits for a lock, so a worker that
# is frozen in the middle holds up no other: what it holds is looked at again a moment later.
FAN_OUT = """
create function fan_out(most integer) returns table (user_id text, made bigint) language plpgsql as $$
#variable_conflict use_column
declare
  owner text;
  taken bigint[];
  head bigint;
  upto bigint;
  told bigint := 0;
  rows bigint;
  hook webhooks;
  started timestamptz := clock_timestamp();
begin
  select o.user_id into owner from outbox o join users u on u.id = o.user_id
   where o.due_at <= started order by o.due_at limit 1
   for update of o skip locked for key share of u skip locked;
  if not found then
    return;
  end if;
  select array_agg(o.seq) into taken from (
    select seq from outbox where outbox.user_id = owner order by seq for update skip locked) o;
  select s.last_seq into head from streams s where s.user_id = owner;
  for hook in select w.* from webhooks w where w.user_id = owner and w.enabled and w.cursor < head
               order by w.id for no key update skip locked loop
    upto := least(head, hook.cursor + most);
    insert into deliveries (user_id, id, webhook_id, event_id, kind, payload, next_at)
    select owner, delivery_id(e.id, hook.id), hook.id, e.id, e.kind,
        format('{"type":%s,"timestamp":%s,"data":%s}', to_json(e.kind), to_json(wire.at), row_to_json(wire)),
        started
      from events e, lateral (
        select e.seq, e.id, e.kind, e.run_id,
          json_build_object('type', e.resource_type, 'id', e.resource_id) as resource,
          to_char(timezone('UTC', e.at), 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') as at, e.actor, e.data) wire
     where e.user_id = owner and e.seq > hook.cursor and e.seq <= upto
       and not starts_with(e.kind, 'delivery.')
       and not (e.resource_type = 'webhook' and e.resource_id = hook.id::text)
       and exists (select from unnest(hook.events) admitted(kind) where admitted.kind in ('*', e.kind)
                      or (right(admitted.kind, 1) = '.' and starts_with(e.kind, admitted.kind)))
     order by e.seq
    on conflict do nothing;
    get diagnostics rows = row_count;
    told := told + rows;
    update webhooks w set cursor = upto,
        due_at = case when rows > 0 then least(w.due_at, started) else w.due_at end
     where w.user_id = owner and w.id = hook.id;
  end loop;
  if exists (select from webhooks w where w.user_id = owner and w.enabled and w.cursor < head) then
    update outbox o set due_at = clock_timestamp() + interval '100 milliseconds'
     where o.user_id = owner and o.seq = taken[cardinality(taken)];
    taken := trim_array(taken, 1);
  end if;
  delete from outbox o where o.user_id = owner and o.seq = any(taken);
  return query select owner, told;
end $$
"""

# At most `room` deliveries, each of another webhook, which then goes to the end of the queue of those that wait.
# `hooks` and `owners` are those of the deliveries that the worker is sending already; a webhook that fails gets
# one at a time. Who does not settle in time has lost the delivery to the next.
CLAIM = """
create function claim_deliveries(hooks uuid[], owners text[], per_hook integer, per_owner integer, room integer,
                                 lease interval)
returns table (user_id text, id uuid, webhook_id uuid, event_id uuid, payload text, attempt integer,
               tried_before integer, attempts json, url text, secret bytea, old_secret bytea)
language plpgsql as $$
#variable_conflict use_column
declare
  started timestamptz := clock_timestamp();
  hook webhooks;
  chosen deliveries;
begin
  for turn in 1..room loop
    select w.* into hook from webhooks w
     where w.due_at <= started
       and cardinality(array_positions(hooks, w.id)) < case when w.failing_since is null then per_hook else 1 end
       and cardinality(array_positions(owners, w.user_id)) < per_owner
     order by w.due_at limit 1 for no key update skip locked;
    exit when not found;
    select d.* into chosen from deliveries d
     where d.user_id = hook.user_id and d.webhook_id = hook.id and d.status = 'pending' and d.next_at <= started
     order by d.next_at limit 1 for update skip locked;
    if found then
      hooks := hooks || hook.id;
      owners := owners || hook.user_id;
      update deliveries d set next_at = clock_timestamp() + lease, attempt = d.attempt + 1,
          tried_since = coalesce(d.tried_since, clock_timestamp())
       where d.user_id = hook.user_id and d.id = chosen.id;
      return query select chosen.user_id, chosen.id, chosen.webhook_id, chosen.event_id, chosen.payload,
        chosen.attempt + 1, chosen.tried_before, chosen.attempts, hook.url, hook.secret,
        case when hook.old_secret_until > started then hook.old_secret end;
    end if;
    update webhooks w set due_at = (
        select greatest(d.next_at, clock_timestamp()) from deliveries d
         where d.user_id = hook.user_id and d.webhook_id = hook.id and d.status = 'pending'
         order by d.next_at limit 1)
     where w.user_id = hook.user_id and w.id = hook.id;
  end loop;
end $$
"""

# The webhook's row is locked before the delivery's, as by everybody else. `fate` is what the delivery becomes.
# Returns nothing where the delivery is no longer this attempt's, else for how long nothing but failures came:
# since the webhook's first where the delivery is given up, and not before its own first where it is not, so that
# one failure does not outweigh a silence after an older one.
SETTLE = """
create function settle_delivery(owner text, hook uuid, delivery uuid, try integer, fate text, heads json,
                                wait interval)
returns table (failing_for interval) language plpgsql as $$
declare
  next timestamptz := clock_timestamp() + wait;
  since timestamptz;
begin
  if fate = 'succeeded' then
    update webhooks w set failing_since = null
     where w.user_id = owner and w.id = hook and w.failing_since is not null;
  else
    update webhooks w set failing_since = coalesce(w.failing_since, clock_timestamp()),
        due_at = least(w.due_at, next)
     where w.user_id = owner and w.id = hook and w.enabled returning w.failing_since into since;
  end if;
  return query update deliveries d set
      status = fate, attempts = heads, next_at = next, updated_at = clock_timestamp(),
      finished_at = case when fate <> 'pending' then clock_timestamp() end
    where d.user_id = owner and d.id = delivery and d.attempt = try and d.status = 'pending'
    returning clock_timestamp() - case when fate = 'failed' then since else greatest(since, d.tried_since) end;
end $$
"""

# What still waits when a webhook is disabled is given up.
FAIL = """
create function fail_deliveries(owner text, hook uuid) returns void language sql as $$
  update deliveries set status = 'failed', next_at = null, finished_at = clock_timestamp(),
      updated_at = clock_timestamp()
   where user_id = owner and webhook_id = hook and status = 'pending';
  update webhooks set due_at = null where user_id = owner and id = hook
$$
"""

WAKE = """
create function wake_webhook(owner text, hook uuid) returns void language sql as $$
  update webhooks set due_at = least(due_at, clock_timestamp()) where user_id = owner and id = hook
$$
"""


def downgrade() -> None:
    for function in (
        "wake_webhook",
        "fail_deliveries",
        "settle_delivery",
        "claim_deliveries",
        "fan_out",
        "delivery_id",
        "tell_webhooks",
    ):
        op.execute(f"drop function {function}")
