-- task_status: tasks.state as a user sees it: a task in backoff or held back by its tenant's cap is pending.
create or replace function task_status(p_state smallint) returns text
language sql immutable strict parallel safe
as $$
  select (array['pending', 'ready', 'running', 'completed', 'failed', 'skipped', 'cancelled', 'pending', 'pending'])[p_state + 1]
$$;
