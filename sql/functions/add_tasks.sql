-- add_tasks: inserts planned tasks (a JSON array of NewTask) with their payloads and edges into a job whose row the
-- caller holds, and answers the capabilities that became ready. p_before are existing tasks that must wait for all of
-- them. Called by submit_job and, for fan-out, by complete_tasks. A capped tenant's tasks come in as held; the caller
-- promotes afterwards.
create or replace function add_tasks(
  p_job uuid, p_tasks jsonb, p_before uuid[], p_spawned_by uuid, p_capped boolean, p_now timestamptz
) returns int[]
language plpgsql
-- Of tasks and capabilities only the rows named are wanted; with statistics that lag behind the planner would read all.
set enable_seqscan = off
as $$
declare
  v_job jobs;
  v_open tasks[];
begin
  select * into v_job from jobs where id = p_job;

  -- New capabilities are rare; existing ones are only read, so that submits do not wait for each other here.
  perform capability_id(n.stage, n.engine, n.model)
     from (select distinct stage, engine, model
             from jsonb_to_recordset(p_tasks) as r (stage text, engine text, model text)) n
    where not exists (select from capabilities c
                       where c.stage = n.stage and c.engine = n.engine and c.model = n.model);

  if exists (select from jsonb_array_elements(p_tasks) t cross join jsonb_array_elements_text(t->'needs') as n (id)
              where n.id not in (select o->>'id' from jsonb_array_elements(p_tasks) o)
                and not exists (select from tasks t where t.id = n.id::uuid and t.job_id = p_job)) then
    raise exception 'a task of job % needs one that the job does not have', p_job using errcode = 'foreign_key_violation';
  end if;

  with planned as materialized (
    select r.id, r.stage, r.engine, r.model, r.name, r.needs, r.required, r.max_attempts, r.chosen_because, r.request
      from jsonb_to_recordset(p_tasks) as r (
             id uuid, stage text, engine text, model text, name text, needs uuid[], required boolean,
             max_attempts smallint, chosen_because text, request jsonb)
  ), need as materialized (
    select distinct p.id as child_id, n.id as parent_id from planned p cross join unnest(p.needs) as n (id)
  ), unmet as (
    -- A need that is already done (the task that fans out, above all) is an edge but not waited for.
    select n.child_id, count(*)::int as unmet
      from need n left join tasks t on t.id = n.parent_id
     where t.id is null or t.state not in (3, 5)
     group by n.child_id
  ), dependant as materialized (
    select n.parent_id, array_agg(n.child_id order by n.child_id) as ids from need n group by n.parent_id
  ), inserted as (
    insert into tasks as t (id, job_id, tenant_id, fair_key, priority, capability_id, name, required, max_attempts,
                       unmet, slot, ready_at, total_seconds, ends_job, starts_job, spawned_by,
                       dependants)
    select p.id, p_job, v_job.tenant_id, v_job.fair_key, v_job.priority, c.id, p.name, p.required, p.max_attempts,
           coalesce(u.unmet, 0),
           case when p_capped then case when u.unmet > 0 then 0 else 1 end end,
           case when u.unmet > 0 then null else p_now end,
           coalesce((p.request->'chunk'->>'end')::double precision - (p.request->'chunk'->>'start')::double precision,
                    v_job.audio_duration_seconds),
           p_before = '{}' and d.ids is null,
           cardinality(p.needs) = 0 and p_spawned_by is null,
           p_spawned_by, coalesce(d.ids, '{}') || p_before
      from planned p
      join capabilities c on c.stage = p.stage and c.engine = p.engine and c.model = p.model
      left join unmet u on u.child_id = p.id
      left join dependant d on d.parent_id = p.id
    returning t as task, t.unmet
  ), payloads as (
    insert into task_payloads (task_id, request, chosen_because)
    select id, request, chosen_because from planned
  ), known as (
    -- Tasks that were there already and are needed by new ones.
    update tasks t set dependants = t.dependants || d.ids
      from dependant d where p_spawned_by is not null and t.id = d.parent_id
  )
  select array_agg(task) into v_open from inserted where unmet = 0 and not p_capped;

  if p_before <> '{}' then
    update tasks set unmet = unmet + jsonb_array_length(p_tasks)
     where id in (select id from current_tasks where id = any(p_before) and state = 0);
  end if;
  return case when v_open is null then '{}' else queue_tasks(v_open, p_now) end;
end
$$;
