-- job_progress: share of a job that is done, 0 to 1: seconds of audio done by the model stages, with a twentieth each
-- for prepare and merge. Only grows, unless a job is retried. Called by the view job_details and by extend_leases.
create or replace function job_progress(p_job uuid, p_status text) returns double precision
language sql stable
as $$
  select case when p_status = 'completed' then 1 else (
    select 0.05 * coalesce(sum(done) filter (where stage = 'prepare') / nullif(sum(total) filter (where stage = 'prepare'), 0), 0)
         + 0.90 * coalesce(sum(done) filter (where stage not in ('prepare', 'merge'))
                           / nullif(sum(total) filter (where stage not in ('prepare', 'merge')), 0), 0)
      from (select k.stage, t.total_seconds as total,
                   case when t.state in (3, 5) then t.total_seconds else least(t.done_seconds, t.total_seconds) end as done
              from tasks t join capabilities k on k.id = t.capability_id where t.job_id = p_job) work) end
$$;
