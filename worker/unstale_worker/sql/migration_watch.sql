
select unstale.watch(@{table}::regclass, keys => @{keys}, columns => @{columns});
