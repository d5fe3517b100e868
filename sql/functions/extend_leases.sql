-- extend_leases: a worker's heartbeat for everything it runs, in one statement. Extends each lease that is still its
-- own, with all the tasks in it, records progress in seconds of audio (a high-water mark), and answers what became of
-- each task, in the order asked: held, cancelled (its job is being cancelled: stop and give it back) or lost (stop,
-- record nothing).
--
-- It never waits for a lock: what another verb holds at this moment is answered from what can be read, and extended by
-- the next heartbeat.
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
  with free as materialized (
    select lease from running_tasks where lease = any(p_leases) and worker_id = p_worker for no key update skip locked
  )
  update running_tasks r set lease_expires_at = v_now + make_interval(secs => p_lease_seconds)
    from free where r.lease = free.lease;

  with asked as materialized (
    select a.id, case when a.total > 0 then least(1, greatest(0, a.done / a.total)) else 0 end as share
      from unnest(p_tasks, p_leases, p_done_seconds, p_total_seconds) as a (id, lease, done, total)
      join running_tasks r on r.lease = a.lease and a.id = any(r.tasks)
     where r.worker_id = p_worker
  ), free as materialized (
    select t.id, t.done_seconds as done_before, a.share * t.total_seconds as done_now
      from asked a join tasks t on t.id = a.id
     where a.share * t.total_seconds > t.done_seconds and t.state = 0
       for no key update of t skip locked
  ), moved as (
    update tasks t set done_seconds = free.done_now, told_at = v_now from free where t.id = free.id
    returning t.id, floor(100 * t.done_seconds / t.total_seconds) > floor(100 * free.done_before / t.total_seconds) as told
  )
  select array_agg(id) filter (where told) into v_moved from moved;

  if v_moved is not null then
    insert into job_log (job_id, at, type, body)
    select t.job_id, v_now, 'progress',
           jsonb_build_object('task_id', t.id, 'stage', k.stage, 'name', t.name, 'done_seconds', round(t.done_seconds::numeric, 3),
                              'total_seconds', t.total_seconds, 'progress', round(job_progress(t.job_id, 'running')::numeric, 4),
                              'eta_seconds', round(job_eta(t.job_id, 'running')::numeric, 1))
      from tasks t join capabilities k on k.id = t.capability_id
     where t.id = any(v_moved);
  end if;
  return check_leases(p_tasks, p_leases);
end
$$;
