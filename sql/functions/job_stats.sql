-- job_stats: counts of a tenant's jobs, or of one key's. Days are UTC days. Called by the API.
create or replace function job_stats(
  p_tenant uuid, p_key uuid, out running bigint, out queued bigint, out completed_today bigint, out failed_today bigint
)
language plpgsql stable
as $$
begin
  select count(*) filter (where status <> 'pending'), count(*) filter (where status = 'pending') into running, queued
    from jobs where tenant_id = p_tenant and completed_at is null and (p_key is null or created_by_key_id = p_key);
  select count(*) filter (where status = 'completed'), count(*) filter (where status = 'failed')
    into completed_today, failed_today
    from jobs
   where tenant_id = p_tenant and completed_at >= date_trunc('day', dalston_now(), 'UTC')
     and (p_key is null or created_by_key_id = p_key);
end
$$;
