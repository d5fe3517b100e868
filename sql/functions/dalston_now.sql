-- dalston_now: the one clock. Every lease, backoff and retention is reckoned by it, so a host's clock never matters.
-- A test sets it with `set dalston.now = '2030-01-01 00:00Z'` (or `alter database … set dalston.now`).
create or replace function dalston_now() returns timestamptz
language sql volatile parallel safe
as $$
  select coalesce(nullif(current_setting('dalston.now', true), '')::timestamptz, clock_timestamp())
$$;
