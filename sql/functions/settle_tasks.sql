-- settle_tasks: what follows when tasks have just been completed or skipped: releases their dependants by counting
-- down (p_met: those, each as often as it needed one of the tasks), closes jobs whose last end is reached (p_ends: the
-- jobs, each as often as one of its ends was), and finishes cancellations (p_cancelling: jobs being cancelled) that
-- waited for them. Answers the capabilities that became ready and the jobs that changed state. Called by complete_tasks,
-- end_task, give_back_tasks and cancel_attempt, whose callers hold the jobs' rows.
create or replace function settle_tasks(
  p_met uuid[], p_ends uuid[], p_cancelling uuid[], p_now timestamptz, out ready int[], out changed uuid[]
)
language plpgsql
as $$
declare
  v_free tasks[];
  v_cancelled uuid[];
begin
  if p_met <> '{}' then
    with met as materialized (
      select m.id, count(*)::int as needs from unnest(p_met) as m (id) group by m.id
    ), child as materialized (
      select t as task, t.id, t.unmet - m.needs as unmet from met m join tasks t on t.id = m.id where t.state = 0 and t.unmet > 0
    ), counted as (
      update tasks t set unmet = c.unmet from child c where c.unmet > 0 and t.id = c.id
    )
    select array_agg(task) into v_free from child where unmet <= 0;
    if v_free is not null then
      ready := open_tasks(v_free, p_now);
    end if;
  end if;

  if p_ends <> '{}' then
    with ended as materialized (
      select e.job_id, count(*)::int as ends from unnest(p_ends) as e (job_id) group by e.job_id
    ), closed as (
      update jobs j
         set open_ends = j.open_ends - e.ends,
             status = case when j.status = 'running' and j.open_ends = e.ends then 'completed' else j.status end,
             completed_at = case when j.status = 'running' and j.open_ends = e.ends then p_now end,
             purge_after = case when j.status = 'running' and j.open_ends = e.ends and j.retention_days >= 0
                                then p_now + make_interval(days => j.retention_days) end
        from ended e where j.id = e.job_id
      returning j.id, j.completed_at
    )
    select array_agg(id) filter (where completed_at is not null) into changed from closed;
  end if;

  if p_cancelling <> '{}' then
    with cancelled as (
      update jobs j
         set status = 'cancelled', completed_at = p_now,
             purge_after = case when j.retention_days >= 0 then p_now + make_interval(days => j.retention_days) end
       where j.id = any(p_cancelling) and j.status = 'cancelling'
         and not exists (select from running_tasks r where r.job_id = j.id)
      returning j.id
    )
    select array_agg(id) into v_cancelled from cancelled;
  end if;

  ready := coalesce(ready, '{}');
  changed := coalesce(changed, '{}') || coalesce(v_cancelled, '{}');
  if changed <> '{}' then
    perform publish_job_states(changed, p_now);
  end if;
end
$$;
