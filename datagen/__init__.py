"""What a task is: how an example is drawn, how it is asked, what a right answer is."""
