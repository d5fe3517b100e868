-- cancel_attempt: records that a running task of a job that is being cancelled has stopped, and finishes the
-- cancellation when it was the last. Called by fail_task, give_back_task and rescue_tasks, which hold the job's row.
create or replace function cancel_attempt(p_task uuid, p_job uuid, p_now timestamptz) returns void
language plpgsql
as $$
begin
  update tasks set state = 6, completed_at = p_now, worker_id = null, lease_expires_at = null where id = p_task;
  perform settle_tasks('{}', '{}', array[p_job], p_now);
end
$$;
