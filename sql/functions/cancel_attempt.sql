-- cancel_attempt: records that a running task of a job that is being cancelled has stopped, and finishes the
-- cancellation when it was the last. Answers the task; null when the lease is lost. Called by fail_task and
-- rescue_tasks, which hold the job's row and promote afterwards.
create or replace function cancel_attempt(p_task uuid, p_lease bigint, p_now timestamptz) returns tasks
language plpgsql
as $$
declare
  v_task tasks;
begin
  v_task := end_attempt(p_task, p_lease, false);
  if v_task.id is not null then
    update tasks set state = 6, completed_at = p_now where id = p_task;
    perform settle_tasks('{}', '{}', array[v_task.job_id], p_now);
  end if;
  return v_task;
end
$$;
