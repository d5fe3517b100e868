-- confirm_purged: notes that the objects of a purged job are deleted, and how many there were, also in the audit log.
-- Called by maintenance; only the first call for a job does anything.
create or replace function confirm_purged(p_job uuid, p_artifacts bigint) returns void
language sql
as $$
  with confirmed as (
    update jobs set objects_deleted_at = dalston_now()
     where id = p_job and purged_at is not null and objects_deleted_at is null
    returning id, tenant_id
  )
  insert into audit_log (timestamp, tenant_id, actor_type, actor_id, action, resource_type, resource_id, detail)
  select dalston_now(), tenant_id, 'system', 'retention', 'job.purged', 'job', id::text,
         jsonb_build_object('artifacts_deleted', p_artifacts)
    from confirmed
$$;
