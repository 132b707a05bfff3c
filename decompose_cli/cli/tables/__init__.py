"""What commands show: tables and sentences."""
