-- end_task: gives up on a task that does not run (any more). An optional one is skipped, with its error kept as a
-- warning, and its dependants go on without it; a required one fails its job, whose other open tasks are skipped,
-- running ones included (their workers find their leases lost). Called by fail_task, rescue_tasks and
-- fail_unserved_tasks, which hold the job's row and promote afterwards.
create or replace function end_task(p_task tasks, p_error text, p_now timestamptz) returns int[]
language plpgsql
as $$
declare
  v_stage text := (select stage from capabilities where id = p_task.capability_id);
begin
  update task_payloads set error = p_error where task_id = p_task.id;
  update tasks
     set state = case when required then 4 else 5 end, completed_at = p_now, slot = case when slot is not null then 0 end
   where id = p_task.id;
  insert into job_log (job_id, at, type, body)
  values (p_task.job_id, p_now, case when p_task.required then 'task.failed' else 'task.skipped' end,
          jsonb_build_object('task_id', p_task.id, 'stage', v_stage, 'name', p_task.name, 'error', p_error));

  if not p_task.required then
    return (settle_tasks(p_task.dependants, case when p_task.ends_job then array[p_task.job_id] else '{}' end, '{}', p_now)).ready;
  end if;
  perform withdraw_tasks(p_task.job_id);
  delete from running_tasks where job_id = p_task.job_id;
  update tasks set state = 5, completed_at = p_now, run_at = null, slot = case when slot is not null then 0 end
   where job_id = p_task.job_id and state = 0;
  update jobs j
     set status = 'failed', completed_at = p_now, error = format('Task %s failed: %s', v_stage, p_error),
         purge_after = case when j.retention_days >= 0 then p_now + make_interval(days => j.retention_days) end
   where j.id = p_task.job_id;
  perform publish_job_states(array[p_task.job_id], p_now);
  return '{}';
end
$$;
