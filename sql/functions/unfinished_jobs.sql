-- unfinished_jobs: how many unfinished jobs a tenant has, counted up to p_most; null without a p_most. Called by
-- submit_job, retry_job and retry_task.
create or replace function unfinished_jobs(p_tenant uuid, p_most int) returns int
language plpgsql stable
as $$
begin
  return case when p_most is not null then (
    select count(*) from (select from jobs where tenant_id = p_tenant and completed_at is null limit p_most) as job) end;
end
$$;
