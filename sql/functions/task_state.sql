-- task_state: the name of tasks.state; what operators read in the views.
create or replace function task_state(p_state smallint) returns text
language sql immutable strict parallel safe
as $$
  select (array['pending', 'ready', 'running', 'completed', 'failed', 'skipped', 'cancelled', 'scheduled', 'held'])[p_state + 1]
$$;
