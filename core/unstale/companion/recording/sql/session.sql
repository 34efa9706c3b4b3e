-- What decides, beside its text, which tables a statement reads.
select current_setting('role'), current_setting('search_path')
