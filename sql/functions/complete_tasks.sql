-- complete_tasks: records finished tasks, stores their responses, releases dependants and moves their jobs on.
-- Called by workers, usually through complete_task. Answers, in the order asked, which were recorded (a task whose
-- lease is lost changes nothing), the capabilities that became ready, and the jobs concerned.
--
-- p_more, for a single task only: {"fan_out": [NewTask], "before": [task ids], "transcript": [Transcript, stats]}.
create or replace function complete_tasks(
  p_tasks uuid[], p_leases bigint[], p_responses jsonb[], p_more jsonb default null,
  out done boolean[], out ready int[], out jobs uuid[]
)
language plpgsql
as $$
declare
  v_now timestamptz;
  v_done uuid[];
  v_capped uuid[];
  v_settled record;
begin
  ready := '{}';
  select array_agg(distinct t.job_id) into jobs
    from unnest(p_tasks, p_leases) as a (id, lease) join tasks t on t.id = a.id and t.lease = a.lease and t.state = 2;
  perform from jobs j where j.id = any(complete_tasks.jobs) order by j.id for no key update;
  v_now := dalston_now();

  with completed as (
    update tasks t
       set state = 3, completed_at = v_now, worker_id = null, lease_expires_at = null, done_seconds = t.total_seconds
      from unnest(p_tasks, p_leases) as a (id, lease)
     where t.id = a.id and t.lease = a.lease and t.state = 2
    returning t.id, t.job_id, t.name, t.capability_id, t.tenant_id, t.capped
  ), logged as (
    insert into job_log (job_id, at, type, body)
    select c.job_id, v_now, 'task.completed', jsonb_build_object('task_id', c.id, 'stage', k.stage, 'name', c.name)
      from completed c join capabilities k on k.id = c.capability_id
  )
  select array_agg(id), array_agg(distinct tenant_id) filter (where capped), array_agg(distinct job_id)
    into v_done, v_capped, jobs from completed;
  jobs := coalesce(jobs, '{}');
  select array_agg(a.id = any(coalesce(v_done, '{}')) order by a.n) into done
    from unnest(p_tasks) with ordinality as a (id, n);
  if v_done is null then
    return;
  end if;

  update task_payloads p set response = a.response, error = null
    from unnest(p_tasks, p_responses) as a (id, response)
   where p.task_id = a.id and a.id = any(v_done) and a.response is distinct from 'null'::jsonb;

  if p_more is not null then
    perform store_transcript(jobs[1], p_more->'transcript', v_now);
    ready := fan_out(jobs[1], v_done[1], p_more, v_now);
  end if;

  v_settled := settle_tasks(v_done, jobs, v_now);
  ready := ready || v_settled.ready;
  if v_capped is not null then
    ready := ready || promote_held(v_capped, v_now);
  end if;
end
$$;
