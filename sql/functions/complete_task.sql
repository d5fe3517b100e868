-- complete_task: complete_tasks for one task with everything a task may bring: a Completion as JSON, that is
-- {"response", "fan_out", "before", "transcript"}. Called by workers.
create or replace function complete_task(
  p_task uuid, p_lease bigint, p_completion jsonb, out done boolean, out ready int[], out jobs uuid[]
)
language sql
as $$
  select c.done[1], c.ready, c.jobs
    from complete_tasks(array[p_task], array[p_lease], array[p_completion->'response'], p_completion - 'response') c
$$;
