-- set_priority: moves an unfinished job forward (lower) or back in the queue; 100 is normal. For operators. Answers how
-- many open tasks it moved.
create or replace function set_priority(p_job uuid, p_priority smallint) returns int
language plpgsql
as $$
declare
  v_moved int;
begin
  update jobs set priority = p_priority where id = p_job;
  perform hold_tasks(array[p_job]);
  with taken as (
    delete from ready_tasks q
     using (select distinct capability_id, priority, fair_key from tasks where job_id = p_job and state = 0) t
     where q.capability_id = t.capability_id and q.priority = t.priority and q.fair_key = t.fair_key and q.job_id = p_job
    returning q.*
  )
  insert into ready_tasks (capability_id, priority, fair_key, place, job_id, starts_job, ready_at, attempt, tasks, names)
  select capability_id, p_priority, fair_key, place, job_id, starts_job, ready_at, attempt, tasks, names from taken;
  update tasks set priority = p_priority where job_id = p_job and state = 0;
  get diagnostics v_moved = row_count;
  return v_moved;
end
$$;
