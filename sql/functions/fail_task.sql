-- fail_task: records that an attempt failed. With attempts left and p_retryable it is scheduled again, after
-- 1, 2, 4 … seconds (at most five minutes) with jitter; otherwise the task ends. Called by workers. done is false when
-- the lease is lost, and then nothing was changed.
create or replace function fail_task(
  p_task uuid, p_lease bigint, p_error text, p_retryable boolean, out done boolean, out ready int[], out jobs uuid[]
)
language plpgsql
as $$
declare
  v_now timestamptz;
  v_job uuid;
  v_status text;
  v_task tasks;
  v_delay double precision;
begin
  done := false;
  ready := '{}';
  jobs := '{}';
  select job_id into v_job from running_tasks where lease = p_lease and p_task = any(tasks);
  select j.status into v_status from jobs j where j.id = v_job for no key update;
  v_now := dalston_now();
  v_task := case when v_status = 'cancelling' then cancel_attempt(p_task, p_lease, v_now)
                 else end_attempt(p_task, p_lease, false) end;
  if v_task.id is null then
    return;
  end if;

  done := true;
  jobs := array[v_job];
  if v_status = 'cancelling' then
    null;
  elsif p_retryable and v_task.retries < v_task.max_attempts then
    v_delay := least(300, power(2, least(v_task.retries - 1, 16))) * (0.5 + random() / 2);
    ready := reopen_task(v_task, p_error, v_now + make_interval(secs => v_delay), v_now);
  else
    ready := end_task(v_task, p_error, v_now);
  end if;
  if v_task.slot is not null then
    ready := ready || promote_held(array[v_task.tenant_id], v_now);
  end if;
end
$$;
