-- job_eta: seconds until a running job is expected to be done. Each model stage goes on at the rate it has had since its
-- first task began, and the slowest decides; null while none has got anywhere. Called by the view job_details and by
-- extend_leases.
create or replace function job_eta(p_job uuid, p_status text) returns double precision
language sql stable
as $$
  select case when p_status = 'running' then (
    select max((total - done) / nullif(done, 0) * extract(epoch from dalston_now() - begun))
      from (select sum(t.total_seconds) as total, min(t.started_at) as begun,
                   sum(case when t.state in (3, 5) then t.total_seconds else least(t.done_seconds, t.total_seconds) end) as done
              from current_tasks t join capabilities k on k.id = t.capability_id
             where t.job_id = p_job and k.stage not in ('prepare', 'merge') group by k.stage) stages
     where begun is not null) end
$$;
