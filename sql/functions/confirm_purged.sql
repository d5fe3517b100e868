-- confirm_purged: notes that the objects of a purged job are deleted. Called by maintenance.
create or replace function confirm_purged(p_job uuid) returns void
language sql
as $$
  update jobs set objects_deleted_at = dalston_now() where id = p_job and purged_at is not null
$$;
