-- give_back_tasks: returns tasks unfinished; they are ready again at once and the attempt does not count. In a job that
-- is being cancelled they become cancelled instead. Called by workers that stop or learned of a cancellation. Answers,
-- in the order asked, which were returned; where the lease is lost nothing was changed.
create or replace function give_back_tasks(
  p_tasks uuid[], p_leases bigint[], out done boolean[], out ready int[], out jobs uuid[]
)
language plpgsql
as $$
declare
  v_now timestamptz;
  v_done uuid[];
  v_open tasks[];
  v_capped uuid[];
begin
  select array_agg(distinct job_id) into jobs from running_tasks where lease = any(p_leases);
  jobs := coalesce(jobs, '{}');
  perform from jobs j where j.id = any(give_back_tasks.jobs) order by j.id for no key update;
  v_now := dalston_now();

  with returned as (
    update tasks t
       set state = case when j.status = 'cancelling' then 6 else 0 end,
           completed_at = case when j.status = 'cancelling' then v_now end,
           ready_at = e.ready_at, started_at = e.started_at, slot = case when t.slot is not null then 0 end
      from end_leases(p_tasks, p_leases) e, jobs j
     where t.id = e.task_id and j.id = t.job_id
    returning t as task, t.id, t.state, t.tenant_id, t.slot
  )
  select array_agg(id), array_agg(task) filter (where state = 0), array_agg(distinct tenant_id) filter (where slot is not null)
    into v_done, v_open, v_capped from returned;
  select coalesce(array_agg(a.id = any(coalesce(v_done, '{}')) order by a.n), '{}') into done
    from unnest(p_tasks) with ordinality as a (id, n);

  ready := open_tasks(coalesce(v_open, '{}'), v_now);
  perform settle_tasks('{}', '{}', jobs, v_now);
  if v_capped is not null then
    ready := ready || promote_held(v_capped, v_now);
  end if;
end
$$;
