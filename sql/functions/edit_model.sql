-- edit_model: adds to what users say of a model. Called by the API.
create or replace function edit_model(p_model text, p_overrides jsonb) returns void
language sql
as $$
  insert into models (id, overrides, created_at, updated_at)
  values (p_model, p_overrides, dalston_now(), dalston_now())
  on conflict (id) do update set overrides = models.overrides || p_overrides, updated_at = dalston_now()
$$;
