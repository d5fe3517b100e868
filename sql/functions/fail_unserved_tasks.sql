-- fail_unserved_tasks: gives up on ready tasks for which no live worker has had the model for p_seconds, unless it is
-- being pulled and something was heard of that within p_seconds. Called every few seconds by the API where jobs may wait
-- for a model (DALSTON_ENGINE_UNAVAILABLE_BEHAVIOR=wait). It passes over what somebody else is working on, as
-- rescue_tasks does.
create or replace function fail_unserved_tasks(
  p_seconds double precision, p_limit int, out failed int, out ready int[], out jobs uuid[]
)
language plpgsql
as $$
declare
  v_now timestamptz := dalston_now();
  v_lost record;
  v_tasks uuid[];
  v_task tasks;
  v_capped uuid[] := '{}';
begin
  failed := 0;
  ready := '{}';
  jobs := '{}';
  for v_lost in
    select q.capability_id, q.priority, q.fair_key, q.place, q.job_id,
           concat_ws('/', k.stage, nullif(k.engine, ''), nullif(k.model, '')) as capability,
           case when m.status = 'failed' then '; it could not be pulled: ' || m.error else '' end as pull
      from capabilities k
      left join models m on m.id = k.model
      join ready_tasks q on q.capability_id = k.id and q.ready_at <= v_now - make_interval(secs => p_seconds)
     where not capability_is_served(k.id)
       and not coalesce(m.status = 'downloading' and m.progress_at > v_now - make_interval(secs => p_seconds), false)
     order by q.job_id, q.place limit p_limit
  loop
    perform from jobs j where j.id = v_lost.job_id and j.status in ('pending', 'running')
      for no key update skip locked;
    continue when not found;
    with free as materialized (
      select q.ctid as row, q.tasks from ready_tasks q
       where q.capability_id = v_lost.capability_id and q.priority = v_lost.priority and q.fair_key = v_lost.fair_key
         and q.place = v_lost.place
         for update skip locked
    ), gone as (
      delete from ready_tasks q using free where q.ctid = free.row
    )
    select tasks into v_tasks from free;
    continue when not found;
    for v_task in select * from tasks where id = any(v_tasks) order by id loop
      -- A required one has ended the others with it.
      continue when not exists (select from tasks where id = v_task.id and state = 0);
      ready := ready || end_task(v_task, format('no worker has offered %s for %s s; start one that has the model%s',
                                                v_lost.capability, round(p_seconds), v_lost.pull), v_now);
      failed := failed + 1;
      if v_task.slot is not null then
        v_capped := v_capped || v_task.tenant_id;
      end if;
    end loop;
    jobs := jobs || v_lost.job_id;
  end loop;
  if v_capped <> '{}' then
    ready := ready || promote_held(v_capped, v_now);
  end if;
end
$$;
