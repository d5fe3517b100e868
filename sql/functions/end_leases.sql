-- end_leases: takes tasks out of the leases they are named with, and answers those that were in them. Called by
-- whoever ends attempts and holds the jobs' rows.
create or replace function end_leases(p_tasks uuid[], p_leases bigint[])
returns table (task_id uuid, ready_at timestamptz, started_at timestamptz)
language plpgsql rows 10
as $$
#variable_conflict use_column
declare
  v_ended int;
begin
  -- Leases that end with all their tasks, as nearly all do.
  return query
    with asked as materialized (
      select a.lease, array_agg(a.id) as tasks from unnest(p_tasks, p_leases) as a (id, lease) group by a.lease
    ), ended as (
      delete from running_tasks r using asked a where r.lease = a.lease and r.tasks <@ a.tasks
      returning r.ready_at, r.started_at, r.tasks
    )
    select t.id, e.ready_at, e.started_at from ended e cross join unnest(e.tasks) as t (id);
  get diagnostics v_ended = row_count;
  if v_ended = cardinality(p_tasks) then
    return;
  end if;

  return query
    with ended as materialized (
      select r.lease, r.ready_at, r.started_at, array_agg(a.id) as tasks
        from unnest(p_tasks, p_leases) as a (id, lease) join running_tasks r on r.lease = a.lease and a.id = any(r.tasks)
       group by r.lease
    ), rest as (
      update running_tasks r set tasks = array(select unnest(r.tasks) except select unnest(e.tasks))
        from ended e where r.lease = e.lease
    )
    select t.id, e.ready_at, e.started_at from ended e cross join unnest(e.tasks) as t (id);
end
$$;
