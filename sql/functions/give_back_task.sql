-- give_back_task: give_back_tasks for one task.
create or replace function give_back_task(
  p_task uuid, p_lease bigint, out done boolean, out ready int[], out jobs uuid[]
)
language sql
as $$
  select g.done[1], g.ready, g.jobs from give_back_tasks(array[p_task], array[p_lease]) g
$$;
