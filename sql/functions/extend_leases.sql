-- extend_leases: a worker's heartbeat for everything it runs, in one statement. Extends each lease that is still its
-- own, records progress in seconds of audio (a high-water mark), and answers what became of each, in the order asked:
-- held, cancelled (its job is being cancelled: stop and give it back) or lost (stop, record nothing).
--
-- It never waits for a lock: a task that another verb holds at this moment is answered from what can be read, and
-- extended by the next heartbeat.
create or replace function extend_leases(
  p_worker uuid, p_tasks uuid[], p_leases bigint[], p_done_seconds double precision[], p_total_seconds double precision[],
  p_lease_seconds double precision
) returns text[]
language plpgsql
as $$
declare
  v_now timestamptz := dalston_now();
  v_moved uuid[];
begin
  with asked as (
    select * from unnest(p_tasks, p_leases, p_done_seconds, p_total_seconds) as a (id, lease, done, total)
  ), free as materialized (
    select t.id, t.done_seconds as done_before,
           case when a.total > 0 then least(1, greatest(0, a.done / a.total)) else 0 end * t.total_seconds as done_now
      from asked a join tasks t on t.id = a.id and t.lease = a.lease
     where t.state = 2 and t.worker_id = p_worker
       for no key update of t skip locked
  ), extended as (
    update tasks t
       set lease_expires_at = v_now + make_interval(secs => p_lease_seconds),
           done_seconds = greatest(free.done_before, free.done_now)
      from free where t.id = free.id
    returning t.id, t.done_seconds > free.done_before and t.done_seconds - free.done_before >= t.total_seconds * 0.01 as moved
  )
  select array_agg(id) filter (where moved) into v_moved from extended;

  if v_moved is not null then
    insert into job_log (job_id, at, type, body)
    select t.job_id, v_now, 'progress',
           jsonb_build_object('task_id', t.id, 'stage', k.stage, 'name', t.name, 'done_seconds', t.done_seconds,
                              'total_seconds', t.total_seconds, 'progress', job_progress(t.job_id, 'running'))
      from tasks t join capabilities k on k.id = t.capability_id
     where t.id = any(v_moved);
  end if;
  return check_leases(p_tasks, p_leases);
end
$$;
