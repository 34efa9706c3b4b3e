drop schema unstale cascade
