-- end_leases: takes tasks out of the leases they are named with, and answers those that were in them. Called by
-- whoever ends attempts and holds the jobs' rows.
create or replace function end_leases(p_tasks uuid[], p_leases bigint[])
returns table (task_id uuid, ready_at timestamptz, started_at timestamptz)
language plpgsql rows 10
as $$
#variable_conflict use_column
begin
  return query
    with asked as materialized (
      select a.lease, array_agg(a.id) as tasks from unnest(p_tasks, p_leases) as a (id, lease) group by a.lease
    ), ended as materialized (
      select r.lease, r.ready_at, r.started_at, r.tasks <@ a.tasks as whole,
             case when r.tasks <@ a.tasks then r.tasks
                  else array(select unnest(r.tasks) intersect select unnest(a.tasks)) end as tasks
        from asked a join running_tasks r on r.lease = a.lease
    ), gone as (
      delete from running_tasks r using ended e where r.lease = e.lease and e.whole
    ), rest as (
      update running_tasks r set tasks = array(select unnest(r.tasks) except select unnest(e.tasks))
        from ended e where r.lease = e.lease and not e.whole and e.tasks <> '{}'
    )
    select t.id, e.ready_at, e.started_at from ended e cross join unnest(e.tasks) as t (id);
end
$$;
