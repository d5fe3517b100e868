-- claim_tasks: gives a worker at most p_limit ready tasks, each under a lease. Called by workers with free slots.
--
-- Order: priority; then tasks whose model the worker has loaded, unless another has waited for half a minute (so that
-- models nobody has loaded are not starved); then fairness between tenants; then the place of the capability among those
-- asked for (workers name later stages first, so that what was begun is finished); then age.
--
-- The candidates are the first rows of ready_tasks of each capability, found without locks by one short index scan
-- each, so the cost does not grow with the queue; more than needed are fetched because other workers see the same ones,
-- and eight times as many when others hold all of those. They are locked one after the other until they hold enough
-- tasks, passing over rows that others hold: never through `in (select … limit)`, which a nested loop may evaluate more
-- than once. Only when others hold every candidate does the claim wait, for the first one and with nothing locked of
-- its own.
--
-- Of the last row only as many tasks are taken as are still wanted. A claim neither reads nor writes tasks. The
-- settings keep the planner to the one plan that is right at any depth: index scans in nested loops. With statistics
-- that lag behind (a queue fills and drains within minutes) it would now and then read the whole table.
create or replace function claim_tasks(
  p_worker uuid, p_capabilities int[], p_loaded boolean[], p_limit int, p_lease_seconds double precision
) returns table (
  id uuid, job_id uuid, stage text, name text, engine text, model text, lease bigint, attempt int,
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
  v_fetch int := p_limit + 16;
  v_wanted int := p_limit;
  v_row record;
  v_rows tid[] := '{}';
  v_unstarted uuid[] := '{}';
  v_started uuid[];
  c_free cursor for
    with candidate as materialized (
      select t.*, not wanted.loaded and t.ready_at > v_now - interval '30 s' as must_load, wanted.place as wish
        from unnest(p_capabilities, p_loaded) with ordinality as wanted (capability_id, loaded, place)
       cross join lateral (
         select q.capability_id, q.priority, q.fair_key, q.place, q.ready_at from ready_tasks q
          where q.capability_id = wanted.capability_id
          order by q.priority, q.fair_key, q.place limit v_fetch) t
       order by t.priority, must_load, t.fair_key, wish, t.place limit v_fetch
    )
    select l.* from candidate c  -- comes in the order it was made in
     cross join lateral (
       select q.ctid as row, q.job_id, q.starts_job, cardinality(q.tasks) as size from ready_tasks q
        where q.capability_id = c.capability_id and q.priority = c.priority and q.fair_key = c.fair_key
          and q.place = c.place
          for update skip locked) l;
begin
  loop
    open c_free;
    loop
      fetch c_free into v_row;
      exit when not found;
      v_rows := v_rows || v_row.row;
      if v_row.starts_job then
        v_unstarted := v_unstarted || v_row.job_id;
      end if;
      v_wanted := v_wanted - v_row.size;
      exit when v_wanted <= 0;
    end loop;
    close c_free;
    exit when v_rows <> '{}';
    if v_fetch < p_limit * 8 then
      v_fetch := p_limit * 8 + 16;
      continue;
    end if;

    select q.ctid as row, q.job_id, q.starts_job, cardinality(q.tasks) as size into v_row
      from (select t.* from unnest(p_capabilities) as wanted (capability_id)
             cross join lateral (
               select f.capability_id, f.priority, f.fair_key, f.place from ready_tasks f
                where f.capability_id = wanted.capability_id
                order by f.priority, f.fair_key, f.place limit 1) t
             order by t.priority, t.fair_key, t.place limit 1) c
      join ready_tasks q on q.capability_id = c.capability_id and q.priority = c.priority and q.fair_key = c.fair_key
       and q.place = c.place
       for update of q;
    if found then
      v_rows := array[v_row.row];
      v_unstarted := case when v_row.starts_job then array[v_row.job_id] else '{}' end;
      v_wanted := p_limit - v_row.size;
      exit;
    end if;
    if not exists (select from ready_tasks q where q.capability_id = any(p_capabilities)) then
      return;
    end if;
  end loop;

  if v_unstarted <> '{}' then
    with free as materialized (
      select j.id from jobs j where j.id = any(v_unstarted) and j.status = 'pending' for no key update skip locked
    ), started as (
      update jobs j set status = 'running', started_at = coalesce(j.started_at, v_now)
        from free where j.id = free.id returning j.id
    )
    select array_agg(started.id) into v_started from started;
    -- What is pending still is locked by somebody, perhaps to cancel it: leave its tasks for the next claim.
    select coalesce(array_agg(j.id), '{}') into v_unstarted from jobs j where j.id = any(v_unstarted) and j.status <> 'running';
    if v_started is not null then
      perform publish_job_states(v_started, v_now);
    end if;
  end if;

  -- Taken: all of the rows but the last, of which only so many tasks as are wanted.
  return query
    with wanted as materialized (
      select k.id, k.stage, k.engine, k.model from capabilities k where k.id = any(p_capabilities)
    ), taken as materialized (
      select q.ctid as row, q.*,
             case when v_wanted < 0 and q.ctid = v_rows[cardinality(v_rows)] then cardinality(q.tasks) + v_wanted end as part
        from ready_tasks q
       where q.ctid = any(v_rows) and not (q.starts_job and q.job_id = any(v_unstarted))
    ), whole as (
      delete from ready_tasks q using taken t where q.ctid = t.row and t.part is null
    ), parted as (
      update ready_tasks q set tasks = t.tasks[t.part + 1:], names = t.names[t.part + 1:]
        from taken t where q.ctid = t.row and t.part is not null
    ), task as materialized (
      select u.id, u.name, t.job_id, t.capability_id, t.priority, t.fair_key, t.ready_at, t.attempt
        from (select *, coalesce(part, cardinality(tasks)) as size from taken) t
       cross join unnest(t.tasks[:t.size], t.names[:t.size]) as u (id, name)
    ), running as (
      insert into running_tasks (job_id, worker_id, ready_at, started_at, lease_expires_at, tasks)
      select t.job_id, p_worker, min(t.ready_at), v_now, v_now + make_interval(secs => p_lease_seconds), array_agg(t.id)
        from task t group by t.job_id
      returning lease, job_id
    )
    select t.id, t.job_id, k.stage, t.name, k.engine, k.model, r.lease, t.attempt + 1, p.request
      from task t
      join running r on r.job_id = t.job_id
      join wanted k on k.id = t.capability_id
      join task_payloads p on p.task_id = t.id
     order by t.priority, t.fair_key, t.id;
end
$$;
