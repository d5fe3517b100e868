-- fail_unserved_tasks: gives up on ready tasks for which no live worker has had the model for p_seconds. Called every
-- few seconds by the API where jobs may wait for a model (DALSTON_ENGINE_UNAVAILABLE_BEHAVIOR=wait). It passes over
-- what somebody else is working on, as rescue_tasks does.
create or replace function fail_unserved_tasks(
  p_seconds double precision, p_limit int, out failed int, out ready int[], out jobs uuid[]
)
language plpgsql
as $$
declare
  v_now timestamptz := dalston_now();
  v_lost record;
begin
  failed := 0;
  ready := '{}';
  jobs := '{}';
  for v_lost in
    select t.id, t.job_id, concat_ws('/', k.stage, nullif(k.engine, ''), nullif(k.model, '')) as capability
      from capabilities k
      join tasks t on t.capability_id = k.id and t.state = 1 and t.ready_at <= v_now - make_interval(secs => p_seconds)
     where not exists (select from worker_capabilities c join workers w on w.id = c.worker_id
                        where c.capability_id = k.id and not w.draining and w.last_seen_at > v_now - interval '1 min')
     order by t.job_id, t.id limit p_limit
  loop
    perform from jobs j where j.id = v_lost.job_id and j.status in ('pending', 'running')
      for no key update skip locked;
    continue when not found;
    perform from tasks t where t.id = v_lost.id and t.state = 1 for update skip locked;
    continue when not found;
    ready := ready || (end_task(v_lost.id, format('no worker has offered %s for %s s; start one that has the model',
                                                  v_lost.capability, round(p_seconds)), v_now)).ready;
    failed := failed + 1;
    jobs := jobs || v_lost.job_id;
  end loop;
end
$$;
