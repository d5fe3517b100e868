-- reopen_task: puts a task whose attempt failed back in line: at once, or at p_run_at. Called by fail_task and
-- rescue_tasks, which hold the job's row; a capped tenant's task goes back through its cap. Answers the capabilities that
-- became ready.
create or replace function reopen_task(p_task tasks, p_error text, p_run_at timestamptz, p_now timestamptz) returns int[]
language plpgsql
as $$
begin
  update task_payloads set error = p_error where task_id = p_task.id;
  insert into job_log (job_id, at, type, body)
  select p_task.job_id, p_now, 'task.retrying',
         jsonb_build_object('task_id', p_task.id, 'stage', k.stage, 'name', p_task.name, 'error', p_error,
                            'attempt', p_task.attempt, 'run_at', coalesce(p_run_at, p_now))
    from capabilities k where k.id = p_task.capability_id;
  if p_run_at is null then
    return open_tasks(array[p_task], p_now);
  end if;
  update tasks set run_at = p_run_at where id = p_task.id;
  return '{}';
end
$$;
