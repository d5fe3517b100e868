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
  v_capped uuid[];
begin
  select array_agg(distinct t.job_id) into jobs
    from unnest(p_tasks, p_leases) as a (id, lease) join tasks t on t.id = a.id and t.lease = a.lease and t.state = 2;
  jobs := coalesce(jobs, '{}');
  perform from jobs j where j.id = any(give_back_tasks.jobs) order by j.id for no key update;
  v_now := dalston_now();

  with returned as (
    update tasks t
       set state = case when j.status = 'cancelling' then 6 when t.capped then 8 else 1 end,
           completed_at = case when j.status = 'cancelling' then v_now end,
           ready_at = v_now, attempt = t.attempt - 1, worker_id = null, lease_expires_at = null
      from unnest(p_tasks, p_leases) as a (id, lease), jobs j
     where t.id = a.id and t.lease = a.lease and t.state = 2 and j.id = t.job_id
    returning t.id, t.state, t.capability_id, t.tenant_id, t.capped
  )
  select array_agg(id), array_agg(distinct capability_id) filter (where state = 1),
         array_agg(distinct tenant_id) filter (where capped)
    into v_done, ready, v_capped from returned;
  ready := coalesce(ready, '{}');
  select coalesce(array_agg(a.id = any(coalesce(v_done, '{}')) order by a.n), '{}') into done
    from unnest(p_tasks) with ordinality as a (id, n);

  perform settle_tasks('{}', '{}', jobs, v_now);
  if v_capped is not null then
    ready := ready || promote_held(v_capped, v_now);
  end if;
end
$$;
