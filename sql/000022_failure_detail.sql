alter table generations add column failure_detail text;
comment on column generations.failure_detail is 'Why an output of the provider was refused; a code of the program. Null for other failures.';
