"""What every room uses: errors, files, options, versions."""
