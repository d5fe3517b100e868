-- drain_worker: asks a worker to stop claiming, finish what it runs and exit; it learns at its next heartbeat. For
-- operators. False when there is no such worker.
create or replace function drain_worker(p_worker uuid) returns boolean
language sql
as $$
  with drained as (update workers set draining = true where id = p_worker returning 1)
  select exists (select from drained)
$$;
