prepare unstale_recording as @{query}
