-- complete_tasks: records finished tasks, stores their responses, releases dependants and moves their jobs on.
-- Called by workers, usually through complete_task. Answers, in the order asked, which were recorded (a task whose
-- lease is lost changes nothing), the capabilities that became ready, and the jobs concerned.
--
-- p_more, for a single task only: {"fan_out": [NewTask], "before": [task ids], "transcript": [Transcript, stats]}.
-- The settings are explained at claim_tasks.
create or replace function complete_tasks(
  p_tasks uuid[], p_leases bigint[], p_responses jsonb[], p_more jsonb default null,
  out done boolean[], out ready int[], out jobs uuid[]
)
language plpgsql
set jit = off
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set enable_hashjoin = off
set enable_mergejoin = off
as $$
declare
  v_now timestamptz;
  v_cancelling uuid[];
  v_done uuid[];
  v_met uuid[];
  v_ends uuid[];
  v_capped uuid[];
  v_settled record;
begin
  ready := '{}';
  select coalesce(array_agg(l.id), '{}'), coalesce(array_agg(l.id) filter (where l.status = 'cancelling'), '{}')
    into jobs, v_cancelling
    from (select j.id, j.status from jobs j
           where j.id = any(array(select r.job_id from running_tasks r where r.lease = any(p_leases)))
           order by j.id for no key update) l;
  v_now := dalston_now();

  with completed as (
    update tasks t
       set state = 3, completed_at = v_now, ready_at = e.ready_at, started_at = e.started_at, attempt = t.attempt + 1,
           done_seconds = t.total_seconds, slot = case when t.slot is not null then 0 end
      from end_leases(p_tasks, p_leases) e where t.id = e.task_id
    returning t.id, t.job_id, t.tenant_id, t.slot, t.ends_job, t.dependants
  ), logged as (
    insert into job_log (job_id, at, type, tasks)
    select job_id, v_now, 'task.completed', array_agg(id) from completed group by job_id
  )
  select array_agg(c.id), array(select d.id from completed o cross join unnest(o.dependants) as d (id)),
         array_agg(c.job_id) filter (where c.ends_job), array_agg(distinct c.tenant_id) filter (where c.slot is not null)
    into v_done, v_met, v_ends, v_capped from completed c;
  if v_done is null then
    jobs := '{}';
    done := array_fill(false, array[cardinality(p_tasks)]);
    return;
  elsif cardinality(v_done) = cardinality(p_tasks) then
    done := array_fill(true, array[cardinality(p_tasks)]);
  else
    select array_agg(a.id = any(v_done) order by a.n) into done from unnest(p_tasks) with ordinality as a (id, n);
  end if;

  update task_payloads p set response = a.response, error = null
    from unnest(p_tasks, p_responses) as a (id, response)
   where a.response <> 'null'::jsonb and p.task_id = a.id and a.id = any(v_done);

  if p_more is not null then
    perform store_transcript(jobs[1], p_more->'transcript', v_now);
    ready := fan_out(jobs[1], v_done[1], p_more, v_now);
  end if;

  v_settled := settle_tasks(v_met, coalesce(v_ends, '{}'), v_cancelling, v_now);
  ready := ready || v_settled.ready;
  if v_capped is not null then
    ready := ready || promote_held(v_capped, v_now);
  end if;
end
$$;
