-- claim_tasks: gives a worker at most p_limit ready tasks, each under a lease. Called by workers with free slots.
--
-- Order: priority; then tasks whose model the worker has loaded, unless another has waited for half a minute (so that
-- models nobody has loaded are not starved); then fairness between tenants; then age.
--
-- It never waits for a lock: rows that others hold are passed over. The candidates are the first few of each
-- capability, found without locks by one short index scan each, so the cost does not grow with the queue; more than
-- needed are fetched because other workers see the same ones. They are locked one after the other until there are
-- enough: never through `in (select … limit)`, which a nested loop may evaluate more than once.
--
-- The settings keep the planner to the one plan that is right at any depth: index scans in nested loops. With
-- statistics that lag behind (a queue fills and drains within minutes) it would now and then read the whole table.
-- For the same reason `state::int = 1` stands where the row is fetched by its id: it keeps the index of all ready tasks
-- out of that step.
create or replace function claim_tasks(
  p_worker uuid, p_capabilities int[], p_loaded boolean[], p_limit int, p_lease_seconds double precision
) returns table (
  id uuid, job_id uuid, tenant_id uuid, stage text, name text, engine text, model text, lease bigint, attempt int,
  request jsonb
)
language plpgsql rows 10
set jit = off
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set enable_hashjoin = off
set enable_mergejoin = off
as $$
#variable_conflict use_column
declare
  v_now timestamptz := dalston_now();
  v_fetch int := p_limit * 4 + 16;
  v_tasks uuid[];
  v_unstarted uuid[];
  v_started uuid[];
begin
  with candidate as materialized (
    select t.id, t.priority, t.fair_key, not wanted.loaded and t.ready_at > v_now - interval '30 s' as must_load
      from unnest(p_capabilities, p_loaded) as wanted (capability_id, loaded)
     cross join lateral (
       select r.id, r.priority, r.fair_key, r.ready_at from tasks r
        where r.state = 1 and r.capability_id = wanted.capability_id
        order by r.priority, r.fair_key, r.id limit v_fetch) t
     order by t.priority, must_load, t.fair_key, t.id limit v_fetch
  ), locked as (
    select l.id, l.unstarted_job
      from candidate c  -- comes in the order it was made in
     cross join lateral (
       select t.id, case when t.starts_job then t.job_id end as unstarted_job from tasks t
        where t.id = c.id and t.state::int = 1 for update skip locked) l
     limit p_limit
  )
  select array_agg(locked.id), array_remove(array_agg(distinct unstarted_job), null) into v_tasks, v_unstarted from locked;
  if v_tasks is null then
    return;
  end if;

  if v_unstarted <> '{}' then
    with free as materialized (
      select j.id from jobs j where j.id = any(v_unstarted) and j.status = 'pending' for no key update skip locked
    ), started as (
      update jobs j set status = 'running', started_at = coalesce(j.started_at, v_now)
        from free where j.id = free.id returning j.id
    )
    select array_agg(started.id) into v_started from started;
    -- What is pending still is locked by somebody, perhaps to cancel it: leave its tasks for the next claim.
    select array_agg(j.id) into v_unstarted from jobs j where j.id = any(v_unstarted) and j.status <> 'running';
    if v_started is not null then
      perform publish_job_states(v_started, v_now);
    end if;
  end if;

  return query
    with claimed as (
      update tasks t
         set state = 2, lease = t.lease + 1, attempt = t.attempt + 1, worker_id = p_worker, started_at = v_now,
             lease_expires_at = v_now + make_interval(secs => p_lease_seconds)
       where t.id = any(v_tasks) and (v_unstarted is null or t.job_id <> all(v_unstarted))
      returning t.id, t.job_id, t.tenant_id, t.capability_id, t.name, t.lease, t.attempt::int, t.priority, t.fair_key
    )
    select c.id, c.job_id, c.tenant_id, k.stage, c.name, k.engine, k.model, c.lease, c.attempt, p.request
      from claimed c
      join capabilities k on k.id = c.capability_id
      join task_payloads p on p.task_id = c.id
     order by c.priority, c.fair_key, c.id;
end
$$;
