-- check_leases: what became of these leases, in the order asked: held, cancelled or lost. Reads only, so workers ask
-- twice a second, which is how a cancellation reaches a running model call.
create or replace function check_leases(p_tasks uuid[], p_leases bigint[]) returns text[]
language sql stable
as $$
  select coalesce(array_agg(case when r.lease is null then 'lost' when j.status = 'cancelling' then 'cancelled' else 'held' end
                            order by a.n), '{}')
    from unnest(p_tasks, p_leases) with ordinality as a (id, lease, n)
    left join running_tasks r on r.lease = a.lease and a.id = any(r.tasks)
    left join jobs j on j.id = r.job_id
$$;
