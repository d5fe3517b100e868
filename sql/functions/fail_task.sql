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
  v_task record;
  v_delay double precision;
begin
  done := false;
  ready := '{}';
  jobs := '{}';
  select job_id into v_job from tasks where id = p_task;
  select j.status into v_status from jobs j where j.id = v_job for no key update;
  v_now := dalston_now();
  update tasks set retries = retries + 1 where id = p_task and lease = p_lease and state = 2 and v_status <> 'cancelling'
  returning retries, max_attempts, capped, tenant_id into v_task;
  if not found then
    if v_status = 'cancelling' and exists (select from tasks where id = p_task and lease = p_lease and state = 2) then
      perform cancel_attempt(p_task, v_job, v_now);
      done := true;
      jobs := array[v_job];
    end if;
    return;
  end if;

  done := true;
  jobs := array[v_job];
  if p_retryable and v_task.retries < v_task.max_attempts then
    v_delay := least(300, power(2, least(v_task.retries - 1, 16))) * (0.5 + random() / 2);
    ready := reopen_attempt(p_task, p_error, v_now + make_interval(secs => v_delay), v_now);
  else
    ready := (end_task(p_task, p_error, v_now)).ready;
  end if;
  if v_task.capped then
    ready := ready || promote_held(array[v_task.tenant_id], v_now);
  end if;
end
$$;
