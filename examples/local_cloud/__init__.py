"""AWS on this machine: the template deployed, its schedules fired, every record accounted for."""
