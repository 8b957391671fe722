#!/bin/sh
echo "$GREETING" "$@"
