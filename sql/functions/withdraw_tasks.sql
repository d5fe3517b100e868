-- withdraw_tasks: takes the ready tasks of a job back from the claims: afterwards an open task of the job either runs or
-- stays where it is. Called by cancel_job and end_task, which hold the job's row.
create or replace function withdraw_tasks(p_job uuid) returns void
language plpgsql
as $$
begin
  perform hold_tasks(array[p_job]);
  delete from ready_tasks q
   using (select distinct capability_id, priority, fair_key from tasks where job_id = p_job and state = 0) t
   where q.capability_id = t.capability_id and q.priority = t.priority and q.fair_key = t.fair_key and q.job_id = p_job;
end
$$;
