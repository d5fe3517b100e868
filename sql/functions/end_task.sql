-- end_task: gives up on a task. An optional one is skipped, with its error kept as a warning, and its dependants go on
-- without it; a required one fails its job, whose other open tasks are skipped, running ones included (their workers
-- find their leases lost). Called by fail_task and rescue_tasks, which hold the job's row.
create or replace function end_task(p_task uuid, p_error text, p_now timestamptz, out ready int[], out jobs uuid[])
language plpgsql
as $$
declare
  v_task record;
  v_settled record;
begin
  ready := '{}';
  select t.id, t.job_id, t.required, t.ends_job, t.name, k.stage into v_task
    from tasks t join capabilities k on k.id = t.capability_id where t.id = p_task;
  jobs := array[v_task.job_id];
  update task_payloads set error = p_error where task_id = p_task;
  update tasks
     set state = case when v_task.required then 4 else 5 end, completed_at = p_now, worker_id = null,
         lease_expires_at = null, run_at = null
   where id = p_task;
  insert into job_log (job_id, at, type, body)
  values (v_task.job_id, p_now, case when v_task.required then 'task.failed' else 'task.skipped' end,
          jsonb_build_object('task_id', p_task, 'stage', v_task.stage, 'name', v_task.name, 'error', p_error));

  if not v_task.required then
    v_settled := settle_tasks(array[p_task], case when v_task.ends_job then array[p_task] else '{}' end, '{}', p_now);
    ready := v_settled.ready;
    return;
  end if;
  update tasks set state = 5, completed_at = p_now, worker_id = null, lease_expires_at = null, run_at = null
   where job_id = v_task.job_id and state in (0, 1, 2, 7, 8);
  update jobs j
     set status = 'failed', completed_at = p_now, error = format('Task %s failed: %s', v_task.stage, p_error),
         purge_after = case when j.retention_days >= 0 then p_now + make_interval(days => j.retention_days) end
   where j.id = v_task.job_id;
  perform publish_job_states(jobs, p_now);
end
$$;
