-- rescue_tasks: takes tasks away from workers that stopped answering: those whose lease ran out or, with p_worker,
-- everything that worker holds. Each counts as a failed attempt; a task whose workers died three times is given up, so
-- that one poisonous input cannot take down worker after worker. Called every few seconds by maintenance, in as many
-- processes as like (they pass over each other's rows), and by register_worker for a worker's earlier run.
create or replace function rescue_tasks(
  p_limit int, p_worker uuid default null, out retried int, out failed int, out ready int[], out jobs uuid[]
)
language plpgsql
as $$
declare
  c_most_crashes constant int := 3;
  v_now timestamptz := dalston_now();
  v_lost record;
  v_status text;
  v_task tasks;
  v_capped uuid[] := '{}';
  v_error text;
begin
  retried := 0;
  failed := 0;
  ready := '{}';
  jobs := '{}';
  for v_lost in
    select t.id as task_id, r.job_id, r.lease from running_tasks r cross join unnest(r.tasks) as t (id)
     where r.lease_expires_at <= v_now or r.worker_id = p_worker
     order by r.job_id, t.id limit p_limit
  loop
    -- Skip what somebody is working on: waiting here, with other jobs' rows held, could deadlock.
    select j.status into v_status from jobs j where j.id = v_lost.job_id for no key update skip locked;
    continue when not found;
    perform from running_tasks r
      where r.lease = v_lost.lease and v_lost.task_id = any(r.tasks) and (r.lease_expires_at <= v_now or r.worker_id = p_worker)
        for update skip locked;
    continue when not found;

    jobs := jobs || v_lost.job_id;
    v_task := case when v_status = 'cancelling' then cancel_attempt(v_lost.task_id, v_lost.lease, v_now)
                   else end_attempt(v_lost.task_id, v_lost.lease, true) end;
    if v_task.slot is not null then
      v_capped := v_capped || v_task.tenant_id;
    end if;
    continue when v_status = 'cancelling';
    if v_task.crashes >= c_most_crashes then
      v_error := format('the worker died %s times while running this task', v_task.crashes);
    else
      v_error := format('the worker stopped answering while running this task (attempt %s of %s)',
                        v_task.retries, v_task.max_attempts);
    end if;
    if v_task.crashes >= c_most_crashes or v_task.retries >= v_task.max_attempts then
      ready := ready || end_task(v_task, v_error, v_now);
      failed := failed + 1;
    else
      ready := ready || reopen_task(v_task, v_error, null, v_now);
      retried := retried + 1;
    end if;
  end loop;
  if v_capped <> '{}' then
    ready := ready || promote_held(v_capped, v_now);
  end if;
end
$$;
