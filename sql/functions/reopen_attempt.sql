-- reopen_attempt: puts a running task whose attempt failed back in line: at once, or at p_run_at. Called by fail_task
-- and rescue_tasks, which hold the job's row; a capped tenant's task goes back through its cap.
create or replace function reopen_attempt(
  p_task uuid, p_error text, p_run_at timestamptz, p_now timestamptz, out ready int[]
)
language plpgsql
as $$
declare
  v_task record;
begin
  update tasks t
     set state = case when p_run_at is not null then 7 when t.capped then 8 else 1 end,
         run_at = p_run_at, ready_at = p_now, worker_id = null, lease_expires_at = null
   where t.id = p_task
  returning t.id, t.job_id, t.name, t.capability_id, t.state, t.attempt, t.max_attempts into v_task;
  update task_payloads set error = p_error where task_id = p_task;
  insert into job_log (job_id, at, type, body)
  select v_task.job_id, p_now, 'task.retrying',
         jsonb_build_object('task_id', v_task.id, 'stage', k.stage, 'name', v_task.name, 'error', p_error,
                            'attempt', v_task.attempt, 'run_at', coalesce(p_run_at, p_now))
    from capabilities k where k.id = v_task.capability_id;
  ready := case when v_task.state = 1 then array[v_task.capability_id] else '{}' end;
end
$$;
