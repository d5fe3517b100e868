-- end_attempt: takes a running task from its worker because the attempt failed (p_crashed: the worker stopped
-- answering), and counts that. Answers the task; null when the lease is lost. Called by fail_task and rescue_tasks, which
-- hold the job's row and then decide between reopen_task and end_task.
create or replace function end_attempt(p_task uuid, p_lease bigint, p_crashed boolean) returns tasks
language plpgsql
as $$
declare
  v_task tasks;
begin
  update tasks t
     set attempt = t.attempt + 1, retries = t.retries + 1, crashes = t.crashes + p_crashed::int, ready_at = e.ready_at,
         started_at = e.started_at, slot = case when t.slot is not null then 0 end
    from end_leases(array[p_task], array[p_lease]) e where t.id = e.task_id
  returning t.* into v_task;
  return v_task;
end
$$;
